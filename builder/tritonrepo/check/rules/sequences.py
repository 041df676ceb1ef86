"""TR5xx"""
