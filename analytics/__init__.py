"""WorkflowMaster's room `analytics`."""
