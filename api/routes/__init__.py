"""The native API, one file a resource."""
