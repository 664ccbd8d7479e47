"""Simulation: galaxies whose truth is known, and volunteers whose skill is known.

The tutorial, the tests and the benchmarks share it: what is claimed of calibration and of savings is
tested here first. See ``docs/simulation.md``.
"""

from greenpea.simulate.crowd import Volunteers, annotate, classify, expected_fractions, volunteers
from greenpea.simulate.population import GLOSSARY, at_redshift
from greenpea.simulate.rendering import Galaxies, galaxies, observe, properties

__all__ = [
    "GLOSSARY",
    "Galaxies",
    "Volunteers",
    "annotate",
    "at_redshift",
    "classify",
    "expected_fractions",
    "galaxies",
    "observe",
    "properties",
    "volunteers",
]
