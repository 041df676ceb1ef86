"""TR2xx"""
