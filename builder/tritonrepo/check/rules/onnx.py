"""TR8xx"""
