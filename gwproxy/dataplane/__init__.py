"""What happens once a request: router, plugin chain, balancer, upstream transport. Knows nothing of where a configuration came from."""
