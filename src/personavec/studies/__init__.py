"""Studies: verbs made of verbs, which test what single ones claim."""
