"""Training: one step as a pure function, mapped over runs, measured on clean data. Start reading in step.py."""
