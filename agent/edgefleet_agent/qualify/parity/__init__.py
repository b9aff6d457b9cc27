"""Parity: do a candidate's outputs mean what the reference's mean?"""
