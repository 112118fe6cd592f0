"""The nouns: frozen values, no behaviour that could fail or block."""
