"""White blood cells in silico: morphology × stain × optics × camera × framing.

What a federated study of domain shift needs and no clinic can hand out: any number of labelled cells, from any
number of clinics that differ in known ways. `render` draws them; a `Domain` says how a clinic's images look, a case
mix which cells it sees.
"""

from wbc_simulations.phantom.blending import blended_domain
from wbc_simulations.phantom.case_mix import case_mix, case_mix_names
from wbc_simulations.phantom.render import render
from wbc_simulations.phantom.settings import Domain, domain_names, load_domain

__all__ = ["Domain", "blended_domain", "case_mix", "case_mix_names", "domain_names", "load_domain", "render"]
