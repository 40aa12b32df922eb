"""Regularizers: frozen dataclasses of strengths that override one or two pure hooks of a training step."""
