"""What keeps README.md and docs/ true: their commands are run, and reference pages are made from the code."""
