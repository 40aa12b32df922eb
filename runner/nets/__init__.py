"""Networks, and the marked places in them where methods act."""
