"""What meets sockets, files and other people's libraries."""
