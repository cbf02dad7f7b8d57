"""`python -m personavec`, as launchers of several processes call it."""

from personavec.cli.main import main

if __name__ == "__main__":
    main()
