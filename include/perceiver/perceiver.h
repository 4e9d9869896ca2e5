// The whole public API.
#pragma once

#include "perceiver/config.h"
#include "perceiver/error.h"
#include "perceiver/generator.h"
#include "perceiver/model.h"
#include "perceiver/policy.h"
#include "perceiver/version.h"
