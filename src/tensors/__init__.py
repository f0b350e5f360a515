"""Bilinear maps, y_j = Σ_ik a_i W_ijk b_k, whose tensor W is held in full or in a decomposed form."""
