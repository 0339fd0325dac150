"""What we answer ourselves, over HTTP on a unix socket behind Envoy's port."""
