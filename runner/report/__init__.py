"""Tables and figures of a study folder; the only part of regrun that imports pandas and matplotlib."""
