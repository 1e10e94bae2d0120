"""What trains within a frozen network: leaves beside its weights, a file for each method."""
