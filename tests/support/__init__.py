"""What integration tests share: small real models, packages, a store, and the agent as a process."""
