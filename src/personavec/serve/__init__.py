"""An OpenAI-compatible server whose replies carry readings and can be steered."""
