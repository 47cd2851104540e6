"""Named points, flips, links, OKS sigmas and the union vocabulary."""
