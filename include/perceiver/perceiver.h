// The whole public API.
#pragma once

#include "perceiver/batch_generator.h"
#include "perceiver/config.h"
#include "perceiver/dataset.h"
#include "perceiver/error.h"
#include "perceiver/generator.h"
#include "perceiver/media.h"
#include "perceiver/model.h"
#include "perceiver/policy.h"
#include "perceiver/special_tokens.h"
#include "perceiver/tokenizer.h"
#include "perceiver/train.h"
#include "perceiver/train_report.h"
#include "perceiver/version.h"
