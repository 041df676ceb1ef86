"""TR4xx"""
