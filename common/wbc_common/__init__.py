"""What every party of a federated study must agree on; imports no other room."""
