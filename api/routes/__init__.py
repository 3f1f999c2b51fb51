"""Routes of the native API, one file per resource."""
