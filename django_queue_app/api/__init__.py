"""The HTTP API: decode, call a service, encode. `urls.py` mounts it, `site.py` puts it together."""
