"""Chaos: everything dies at random under load, and the books are kept. See monkey.py."""
