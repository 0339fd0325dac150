"""Every socket we listen on. An edge moves bytes; what they mean is decided in `gate`."""
