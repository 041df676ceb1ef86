"""TR3xx"""
