"""TR7xx"""
