"""TR1xx"""
