"""HTTP as pure functions: headers, paths, bodies, forwarding rules. No sockets, no I/O."""
