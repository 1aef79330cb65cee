"""Where the codebook comes from: learners of rows, wherever these are.

====================  ==============================================================
`rows`                blocks of rows, sums over them, and the driver of learners
`random_rows`         random numbers by the number of the row, and rows drawn by them
`moments`             mean, spread and principal axes
`quantiles`           weighted quantiles of the features
`start`               a first table: k-means++, random rows, splitting, normal
`lloyd`               k-means, for every metric with a minimising update
`online`              minibatch, exponential moving average, gradient descent
`cells`               the best codeword of a cell, and the split of the heaviest
`repair`              something to do for the codewords that no row uses
====================  ==============================================================
"""
