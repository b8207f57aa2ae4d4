"""Fleet tools: keys, publishing, deploying."""
