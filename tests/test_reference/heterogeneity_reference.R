# Random-effects meta-analyses as metafor's summary, confint and predict report them, stored in heterogeneity.json.
#
# Run by hand, from this folder:   Rscript heterogeneity_reference.R
#
# Data: `bcg` is escalc(measure = "RR") of the counts in hbsk/datasets/data/bcg.csv, not rounded; `expectancy` is
# dat.raudenbush1985, by weeks of contact and individual tests; the others are written below. Each analysis is there twice: `tight`, iterated to 1e-13, and `printed`, with metafor's own tolerances (1e-5 of
# tau2 in rma, .Machine$double.eps^0.25 in confint, whose upper end stops at 100). I2 is a percentage.

suppressMessages({
  library(metafor)
  library(jsonlite)
})

counts <- read.csv("../../hbsk/datasets/data/bcg.csv")
risks <- escalc(measure = "RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = counts)
schools <- read.csv("../../hbsk/datasets/data/eight_schools.csv")
data <- list(
  bcg = data.frame(yi = as.numeric(risks$yi), sei = sqrt(as.numeric(risks$vi)), x = counts$ablat),
  eight_schools = data.frame(yi = schools$effect, sei = schools$standard_error),
  three = data.frame(yi = c(0.12, 0.81, 0.35), sei = c(0.2, 0.25, 0.15)),
  two = data.frame(yi = c(0.2, 0.9), sei = c(0.1, 0.15)),
  empty = data.frame(yi = c(0.50, 0.51, 0.49, 0.505), sei = c(0.3, 0.2, 0.25, 0.4)),
  wide = data.frame(yi = c(-30.1, 12.7, 3.3, 45.9, -8.2), sei = c(1.5, 2.1, 0.7, 3.0, 1.1)),
  expectancy = with(dat.raudenbush1985, data.frame(
    yi = as.numeric(yi), sei = sqrt(as.numeric(vi)), x = weeks, z = as.numeric(setting == "indiv")
  )),
  unequal = data.frame(yi = c(0.3, 0.9, -1.2, 500, 2.5), sei = c(1e-3, 0.5, 1.2, 1e3, 0.8))
)

analyse <- function(name, mods, method, tight) {
  d <- data[[name]]
  iterations <- list(REML = list(threshold = 1e-13, maxiter = 10000), ML = list(threshold = 1e-13, maxiter = 10000),
                     PM = list(tol = 1e-13, maxiter = 10000))[[method]]
  fit <- rma(yi, sei = sei, mods = mods, data = d, method = method, control = if (tight) iterations else list())
  control <- if (tight) list(tol = 1e-13, tau2.max = 1e7, maxiter = 10000) else list()
  profile <- suppressMessages(confint(fit, control = control))$random
  prediction <- if (fit$p == 1) predict(fit) else list(pi.lb = NA, pi.ub = NA)
  list(
    estimate = I(as.numeric(fit$beta)), se = I(fit$se), z = I(fit$zval), p = I(fit$pval),
    lower = I(fit$ci.lb), upper = I(fit$ci.ub), tau2 = fit$tau2, tau2_se = fit$se.tau2, I2 = fit$I2, H2 = fit$H2,
    typical_variance = fit$vt, Q = fit$QE, df = fit$k - fit$p, Q_p = fit$QEp,
    QM = if (fit$p > 1) fit$QM else NA, QM_p = if (fit$p > 1) fit$QMp else NA,
    tau2_interval = as.numeric(profile[1, 2:3]), tau_interval = as.numeric(profile[2, 2:3]),
    I2_interval = as.numeric(profile[3, 2:3]), H2_interval = as.numeric(profile[4, 2:3]),
    prediction_interval = c(as.numeric(prediction$pi.lb), as.numeric(prediction$pi.ub))
  )
}

both <- function(name, mods, method) {
  list(
    data = name, moderators = deparse(mods), method = method,
    call = sprintf("rma(yi, sei = sei, mods = %s, method = \"%s\"); confint(fit); predict(fit)", deparse(mods), method),
    tight = analyse(name, mods, method, TRUE), printed = analyse(name, mods, method, FALSE)
  )
}

models <- list()
for (method in c("REML", "ML", "DL", "PM")) models <- c(models, list(both("bcg", ~ 1, method)))
for (method in c("REML", "DL", "PM")) models <- c(models, list(both("bcg", ~ x, method)))
for (method in c("REML", "DL", "PM")) models <- c(models, list(both("expectancy", ~ x + z, method)))
for (name in setdiff(names(data), c("bcg", "expectancy"))) {
  for (method in c("REML", "DL", "PM")) models <- c(models, list(both(name, ~ 1, method)))
}
output <- list(
  made_by = "tests/test_reference/heterogeneity_reference.R",
  versions = list(
    R = paste(R.version$major, R.version$minor, sep = "."), metafor = as.character(packageVersion("metafor"))
  ),
  date = format(Sys.Date()),
  tolerances = "tight: threshold 1e-13 (REML, ML), tol 1e-13 (PM, confint), tau2.max 1e7; printed: metafor's defaults",
  data = lapply(data, function(d) lapply(as.list(d), I)),
  models = models
)
write_json(output, "heterogeneity.json", auto_unbox = TRUE, digits = I(15), pretty = TRUE, na = "null")
