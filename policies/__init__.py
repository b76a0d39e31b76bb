"""WorkflowMaster's room `policies`."""
