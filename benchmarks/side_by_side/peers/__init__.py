"""Peers: small servers as their own documentation shows them, run in environments of their own."""
