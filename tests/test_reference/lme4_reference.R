# REML estimates of classic grouped data sets by lme4, stored in lme4.json.
#
# Run by hand, from this folder:   Rscript lme4_reference.R
#
# Data: the CSV files of hbsk/datasets/data and of data/ beside this file (make_data.py wrote them), so that R and
# hbsk read the same digits. Every model is fitted by two optimisers with tolerances far below lme4's defaults, each
# restarted from its own optimum; the better fit is stored, and `disagreement` is the largest relative difference of
# any estimate between the two: digits beyond it mean nothing.
#
# Scales: `sd` are standard deviations (lme4's theta times sigma), `sigma` is the residual standard deviation,
# `reml_criterion` is minus twice the restricted log likelihood with all constants, as lme4's REMLcrit().

suppressMessages({
  library(lme4)
  library(jsonlite)
})

shipped <- "../../hbsk/datasets/data"
own <- "data"

read <- function(folder, file, factors) {
  data <- read.csv(file.path(folder, file), stringsAsFactors = FALSE)
  for (name in factors) data[[name]] <- factor(data[[name]])
  data
}

sleepstudy <- read(shipped, "sleepstudy.csv", "Subject")
radon <- read(shipped, "radon.csv", "county")
dyestuff <- read(shipped, "dyestuff.csv", "Batch")
dyestuff2 <- read(shipped, "dyestuff2.csv", "Batch")
orthodont <- read(own, "orthodont.csv", c("Subject", "Sex"))
oxboys <- read(own, "oxboys.csv", "Subject")
machines <- read(own, "machines.csv", c("Worker", "Machine"))
pastes <- read(own, "pastes.csv", c("batch", "cask"))
pastes$sample <- factor(paste(pastes$batch, pastes$cask, sep = ":"))
exam <- read(own, "exam.csv", "school")
math_achieve <- read(own, "math_achieve.csv", "School")

models <- list(
  list("sleepstudy", "Reaction ~ Days + (1 | Subject)"),
  list("sleepstudy", "Reaction ~ Days + (1 + Days | Subject)"),
  list("sleepstudy", "Reaction ~ Days + (1 + Days || Subject)"),
  list("radon", "log_radon ~ 1 + (1 | county)"),
  list("radon", "log_radon ~ floor + (1 | county)"),
  list("radon", "log_radon ~ floor + (floor | county)"),
  list("radon", "log_radon ~ floor + uranium + (1 | county)"),
  list("radon", "log_radon ~ floor + uranium + (floor | county)"),
  list("dyestuff", "Yield ~ 1 + (1 | Batch)"),
  list("dyestuff2", "Yield ~ 1 + (1 | Batch)"),
  list("orthodont", "distance ~ age + (1 | Subject)"),
  list("orthodont", "distance ~ age * Sex + (age | Subject)"),
  list("oxboys", "height ~ age + (age | Subject)"),
  list("oxboys", "height ~ age + I(age^2) + (age + I(age^2) | Subject)"),
  list("machines", "score ~ Machine + (1 | Worker)"),
  list("machines", "score ~ Machine + (0 + Machine | Worker)"),
  list("pastes", "strength ~ 1 + (1 | sample)"),
  list("pastes", "strength ~ 1 + (1 | batch) + (1 | sample)"),
  list("exam", "normexam ~ standLRT + (1 | school)"),
  list("exam", "normexam ~ standLRT + (standLRT | school)"),
  list("math_achieve", "MathAch ~ SES + MEANSES + (1 | School)"),
  list("math_achieve", "MathAch ~ SES + MEANSES + (SES | School)")
)

controls <- list(
  bobyqa = lmerControl(
    optimizer = "bobyqa", optCtrl = list(rhobeg = 0.1, rhoend = 1e-11, maxfun = 100000),
    calc.derivs = FALSE, boundary.tol = 0, check.conv.singular = "ignore"
  ),
  nloptwrap = lmerControl(
    optimizer = "nloptwrap",
    optCtrl = list(algorithm = "NLOPT_LN_BOBYQA", xtol_abs = 1e-12, ftol_abs = 1e-13, maxeval = 100000),
    calc.derivs = FALSE, boundary.tol = 0, check.conv.singular = "ignore"
  )
)

estimates <- function(fit) {
  table <- as.data.frame(VarCorr(fit), order = "cov.last")
  sds <- table[is.na(table$var2) & table$grp != "Residual", ]
  correlations <- table[!is.na(table$var2), ]
  # lme4 numbers repeated groupings of `||` as Subject, Subject.1: the grouping factor is the part before the dot.
  factor_of <- function(names) sub("\\.[0-9]+$", "", names)
  list(
    fixed = as.list(fixef(fit)),
    fixed_se = as.list(sqrt(diag(as.matrix(vcov(fit))))),
    sd = lapply(seq_len(nrow(sds)), function(i) {
      list(factor = factor_of(sds$grp[i]), term = sds$var1[i], value = sds$sdcor[i])
    }),
    correlation = lapply(seq_len(nrow(correlations)), function(i) {
      list(
        factor = factor_of(correlations$grp[i]), terms = c(correlations$var1[i], correlations$var2[i]),
        value = correlations$sdcor[i]
      )
    }),
    sigma = sigma(fit),
    reml_criterion = REMLcrit(fit)
  )
}

numbers <- function(x) {
  c(
    unlist(x$fixed), vapply(x$sd, function(s) s$value, 0.0), x$sigma,
    if (length(x$correlation)) vapply(x$correlation, function(s) s$value, 0.0)
  )
}

results <- lapply(models, function(model) {
  data <- get(model[[1]])
  formula <- as.formula(model[[2]])
  fits <- lapply(controls, function(control) {
    fit <- lmer(formula, data, REML = TRUE, control = control)
    for (round in 1:3) {
      fit <- lmer(formula, data, REML = TRUE, control = control, start = getME(fit, "theta"))
    }
    fit
  })
  criteria <- vapply(fits, REMLcrit, 0.0)
  best <- which.min(criteria)
  both <- lapply(fits, estimates)
  a <- numbers(both[[1]])
  b <- numbers(both[[2]])
  # A variance of zero leaves a correlation undefined (NaN) and an sd that is zero to rounding.
  compare <- is.finite(a) & is.finite(b) & abs(a) > 1e-6
  c(
    list(
      data = model[[1]], formula = model[[2]],
      call = sprintf("lmer(%s, %s, REML = TRUE), optimiser %s", model[[2]], model[[1]], names(fits)[best]),
      n = nobs(fits[[best]]), groups = as.list(summary(fits[[best]])$ngrps)
    ),
    both[[best]],
    list(disagreement = max(abs(a - b)[compare] / abs(a)[compare]), singular = isSingular(fits[[best]], tol = 1e-5))
  )
})

output <- list(
  made_by = "tests/test_reference/lme4_reference.R",
  versions = list(
    R = paste(R.version$major, R.version$minor, sep = "."),
    lme4 = as.character(packageVersion("lme4")), Matrix = as.character(packageVersion("Matrix")),
    minqa = as.character(packageVersion("minqa")), nloptr = as.character(packageVersion("nloptr"))
  ),
  date = format(Sys.Date()),
  tolerances = "bobyqa rhoend 1e-11; nloptwrap LN_BOBYQA xtol_abs 1e-12, ftol_abs 1e-13; each restarted three times",
  models = results
)
write_json(output, "lme4.json", auto_unbox = TRUE, digits = I(15), pretty = TRUE, na = "null")
