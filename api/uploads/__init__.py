"""Image uploads: untrusted bytes become stored, plain pixels."""
