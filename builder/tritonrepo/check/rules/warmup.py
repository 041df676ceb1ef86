"""TR6xx"""
