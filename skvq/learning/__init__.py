"""Where the codebook comes from: learners, which see rows wherever they are stored.

====================  ==============================================================
`rows`                blocks of rows, sums over them, and the driver of learners
`tasks`               what learners tell of their progress, and to whom
`random_rows`         random numbers by the number of the row, and rows drawn by them
`moments`             mean, spread and principal axes
`quantiles`           weighted quantiles of the features
`start`               a first table: k-means++, random rows, splitting, progressive
`lloyd`               k-means, for every metric with a minimising update
`online`              minibatch, exponential moving average, gradient descent
`cells`               the best codeword of a cell, and the split of the heaviest cells
`repair`              new places for the codewords that no row uses
`joint`               all tables of a sum at once, for the codes that a search found
`least_squares`       the linear system of joint learning, and its ridge
`additive`            tables that are added up: joint ones, or each in its subspace
`rotation`            orthogonal subspaces, and the rotation to them
`kronecker`           tables whose Kronecker products stand for the samples
`multiscale`          the one table of a pyramid, and its convolutions
`levels`              the best levels for the samples of a feature
`scalar`              levels for a density, and statistics of features
`radius`              codes of the lengths of vectors
====================  ==============================================================
"""
