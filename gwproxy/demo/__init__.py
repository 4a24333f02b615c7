"""What ``gwproxy demo`` runs: sample services and a configuration in front of them."""
