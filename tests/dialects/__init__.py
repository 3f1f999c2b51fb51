"""Dialects, driven by the SDKs of the services whose APIs they speak."""
