"""When is an invoice due?"""
