# Random-effects meta-analyses by metafor (known standard errors), stored in metafor.json.
#
# Run by hand, from this folder:   Rscript metafor_reference.R
#
# Data: the CSV files of hbsk/datasets/data. `tau2` is the between-group variance (not a standard deviation); `mu` and
# `mu_se` the coefficients and their standard errors given tau2 (normal quantiles, no Knapp-Hartung correction);
# `log_likelihood` is the full one for ML and the closed forms and the restricted one for REML, which in metafor
# contains +0.5 log|X'X|.
# `blup` and `blup_se` the shrunken estimate of each group and its standard error as metafor's blup() has it, which
# includes the uncertainty of the coefficients but not that of tau2.

suppressMessages({
  library(metafor)
  library(jsonlite)
})

shipped <- "../../hbsk/datasets/data"
schools <- read.csv(file.path(shipped, "eight_schools.csv"))
schools <- data.frame(yi = schools$effect, sei = schools$standard_error)

counts <- read.csv(file.path(shipped, "bcg.csv"))
risks <- escalc(measure = "RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = counts)
bcg <- data.frame(yi = as.numeric(risks$yi), sei = sqrt(as.numeric(risks$vi)), ablat = counts$ablat)

players <- read.csv(file.path(shipped, "baseball.csv"))
average <- players$hits / 45
baseball <- data.frame(yi = average, sei = sqrt(mean(average) * (1 - mean(average)) / 45))

tight <- list(REML = list(threshold = 1e-13, maxiter = 10000), ML = list(threshold = 1e-13, maxiter = 10000),
              EB = list(threshold = 1e-13, maxiter = 10000), PM = list(tol = 1e-13, maxiter = 10000))

analyse <- function(name, data, mods) {
  lapply(c("REML", "ML", "DL", "HE", "PM", "EB", "SJ"), function(method) {
    control <- if (is.null(tight[[method]])) list() else tight[[method]]
    fit <- rma(data$yi, sei = data$sei, mods = mods, data = data, method = method, control = control)
    shrunken <- blup(fit)
    list(
      data = name, moderators = deparse(mods), method = method,
      call = sprintf("rma(yi, sei = sei, mods = %s, method = \"%s\")", deparse(mods), method),
      tau2 = fit$tau2, mu = I(as.numeric(fit$beta)), mu_se = I(fit$se),
      log_likelihood = as.numeric(logLik(fit)),
      blup = as.numeric(shrunken$pred), blup_se = as.numeric(shrunken$se)
    )
  })
}

results <- c(
  analyse("eight_schools", schools, ~ 1), analyse("bcg", bcg, ~ 1), analyse("bcg", bcg, ~ ablat),
  analyse("baseball", baseball, ~ 1)
)
output <- list(
  made_by = "tests/test_reference/metafor_reference.R",
  versions = list(
    R = paste(R.version$major, R.version$minor, sep = "."), metafor = as.character(packageVersion("metafor"))
  ),
  date = format(Sys.Date()),
  tolerances = "threshold 1e-13 (REML, ML, EB), tol 1e-13 (PM); DL, HE and SJ have closed forms",
  log_risk_ratio = list(yi = bcg$yi, sei = bcg$sei),
  models = results
)
write_json(output, "metafor.json", auto_unbox = TRUE, digits = I(15), pretty = TRUE, na = "null")
