"""Where the codebook comes from: learners as free functions on arrays.

====================  ==============================================================
`initialise`          a first table: k-means++, random rows, splitting, normal
`lloyd`               k-means, for every metric with a minimising update
`online`              minibatch, exponential moving average, gradient descent
`cells`               the best codeword of a cell, and the repair of empty cells
====================  ==============================================================
"""
