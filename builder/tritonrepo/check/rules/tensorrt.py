"""TR9xx"""
