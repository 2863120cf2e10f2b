"""Autobahn's cases against both ends, by `python -m tests.conformance`.

They are run by `kosoku`, from PyPI, or by the original for a release:

    python2.7 -m pip install --target v virtualenv==20.15.1 && PYTHONPATH=v python2.7 -m virtualenv w
    w/bin/pip install autobahntestsuite==0.8.2   # then: --suite original --wstest w/bin/wstest
"""
