"""The parts that recipes choose from, flow, coder, posterior and decoder: each is settings and one call that builds it.

To add a choice, subclass ``FlowPart``, ``Coder``, ``Posterior``, ``Decoder`` or ``TextDecoder`` with a kind.
"""
