"""WorkflowMaster's room `flows`."""
