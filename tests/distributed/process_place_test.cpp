#include "distributed/process_place.h"

#include <gmock/gmock.h>

#include "tests/support/user_error.h"

namespace perceiver {
namespace {

struct Case {
  const char* what;
  Variables variables;
  Launcher launcher;
  int rank, size, local_rank, local_size;
  const char* meeting;
};

TEST(ProcessPlace, IsWhatTheLauncherSays) {
  const Variables step{{"SLURM_JOB_ID", "77"},
                       {"SLURM_STEP_ID", "2"},
                       {"SLURM_PROCID", "5"},
                       {"SLURM_NTASKS", "8"},
                       {"SLURM_LOCALID", "1"}};
  const auto with = [&](Variables more) {
    more.insert(step.begin(), step.end());
    return more;
  };
  const Case cases[] = {
      {"a plain process", {{"HOME", "/"}}, Launcher::none, 0, 1, -1, 0, ""},
      {"our own launcher",
       {{"PERCEIVER_RANK", "2"},
        {"PERCEIVER_RANKS", "4"},
        {"PERCEIVER_LOCAL_RANK", "2"},
        {"PERCEIVER_LOCAL_RANKS", "4"},
        {"PERCEIVER_RENDEZVOUS", "/tmp/x"},
        {"RANK", "0"},
        {"WORLD_SIZE", "9"}},
       Launcher::own,
       2,
       4,
       2,
       4,
       "/tmp/x"},
      {"torchrun's variables",
       {{"RANK", "3"},
        {"WORLD_SIZE", "4"},
        {"LOCAL_RANK", "1"},
        {"LOCAL_WORLD_SIZE", "2"},
        {"MASTER_ADDR", "a"},
        {"MASTER_PORT", "29500"}},
       Launcher::torchrun,
       3,
       4,
       1,
       2,
       "a:29500"},
      {"only the necessary ones, set by hand",
       {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "1"}},
       Launcher::torchrun,
       0,
       1,
       -1,
       0,
       "::1:1"},
      {"torchrun itself, which listens at the port",
       {{"RANK", "0"},
        {"WORLD_SIZE", "2"},
        {"MASTER_ADDR", "a"},
        {"MASTER_PORT", "29500"},
        {"TORCHELASTIC_USE_AGENT_STORE", "True"}},
       Launcher::torchrun,
       0,
       2,
       -1,
       0,
       "a:29501"},
      {"mpirun of Open MPI",
       {{"OMPI_COMM_WORLD_RANK", "1"},
        {"OMPI_COMM_WORLD_SIZE", "2"},
        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
        {"PMIX_RANK", "1"}},
       Launcher::mpi,
       1,
       2,
       1,
       2,
       ""},
      {"mpirun in a Slurm job, whose daemons are a step",
       with({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "16"}}), Launcher::mpi, 0, 16, -1, 0,
       ""},
      {"mpirun of MPICH",
       {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "0"}},
       Launcher::mpi,
       1,
       2,
       0,
       0,
       ""},
      {"srun with PMIx", with({{"PMIX_RANK", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}}), Launcher::mpi, 5, 8, 1, 0,
       ""},
      {"PMIx alone, whose size only MPI knows", {{"PMIX_RANK", "5"}}, Launcher::mpi, 5, 0, -1, 0, ""},
      {"srun with PMI-2", with({{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}}), Launcher::slurm, 5, 8, 1, 0,
       "./.perceiver-77.2"},
      {"srun without", step, Launcher::slurm, 5, 8, 1, 0, "./.perceiver-77.2"},
      {"a step smaller than its job", with({{"SLURM_STEP_NUM_TASKS", "6"}}), Launcher::slurm, 5, 6, 1, 0,
       "./.perceiver-77.2"},
      {"a batch script: one process in a job of eight",
       {{"SLURM_JOB_ID", "77"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}},
       Launcher::none,
       0,
       1,
       -1,
       0,
       ""},
      {"a batch script whose step has a number",
       {{"SLURM_JOB_ID", "77"},
        {"SLURM_STEP_ID", "4294967291"},
        {"SLURM_PROCID", "0"},
        {"SLURM_NTASKS", "8"}},
       Launcher::none,
       0,
       1,
       -1,
       0,
       ""},
      {"a shell of salloc", {{"SLURM_JOB_ID", "77"}, {"SLURM_NTASKS", "8"}}, Launcher::none, 0, 1, -1, 0, ""},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    const ProcessPlace place = process_place(each.variables, true);
    EXPECT_EQ(place.launcher, each.launcher);
    EXPECT_EQ(place.rank, each.rank);
    EXPECT_EQ(place.size, each.size);
    EXPECT_EQ(place.local_rank, each.local_rank);
    EXPECT_EQ(place.local_size, each.local_size);
    EXPECT_EQ(place.meeting, each.meeting);
  }
}

TEST(ProcessPlace, IncompleteOrContradictoryVariablesAreNamed) {
  const std::pair<Variables, const char*> cases[] = {
      {{{"RANK", "0"}}, "RANK is set but WORLD_SIZE is not"},
      {{{"WORLD_SIZE", "2"}}, "WORLD_SIZE is set but RANK is not"},
      {{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK is 2, but WORLD_SIZE is 2"},
      {{{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, "RANK is -1, but must be 0 to"},
      {{{"RANK", "two"}, {"WORLD_SIZE", "2"}}, "RANK is 'two', which is no number"},
      {{{"RANK", "1x"}, {"WORLD_SIZE", "2"}}, "RANK is '1x', which is no number"},
      {{{"RANK", ""}, {"WORLD_SIZE", "2"}}, "RANK is '', which is no number"},
      {{{"RANK", "1"}, {"WORLD_SIZE", "0"}}, "WORLD_SIZE is 0"},
      {{{"RANK", "99999999999999999999"}, {"WORLD_SIZE", "2"}}, "which is no number"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "MASTER_ADDR is not"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}, "MASTER_PORT is not"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}},
       "MASTER_PORT is 70000"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}, {"LOCAL_WORLD_SIZE", "2"}},
       "LOCAL_RANK is 2"},
      {{{"OMPI_COMM_WORLD_RANK", "0"}}, "OMPI_COMM_WORLD_SIZE is not"},
      {{{"PMI_RANK", "0"}}, "PMI_SIZE is not"},
      {{{"PERCEIVER_RANK", "0"}, {"PERCEIVER_RANKS", "2"}}, "PERCEIVER_RENDEZVOUS is not"},
      {{{"SLURM_PROCID", "9"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "8"}}, "SLURM_PROCID is 9"},
  };
  for (const auto& [variables, message] : cases)
    EXPECT_THAT(message_of([&] { process_place(variables, true); }), testing::HasSubstr(message));
}

TEST(ProcessPlace, RendezvousTakesThePlaceOfTheLaunchersWay) {
  const Variables by_hand{{"RANK", "1"}, {"WORLD_SIZE", "2"}};
  EXPECT_EQ(process_place(by_hand, true, "/shared/x").meeting, "/shared/x");
  const Variables mpi{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}};
  EXPECT_EQ(process_place(mpi, true, "a:1").meeting, "a:1");
  EXPECT_THAT(message_of([] { process_place({}, true, "a:1"); }),
              testing::HasSubstr("does not know its rank"));
}

TEST(ProcessPlace, WithoutMpiTheRanksOfMpirunMeetElsewhere) {
  const Variables mpi{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}};
  EXPECT_THAT(message_of([&] { process_place(mpi, false); }), testing::HasSubstr("--rendezvous HOST:PORT"));
  EXPECT_EQ(process_place(mpi, false, "a:1").rank, 1);
  Variables srun{{"PMIX_RANK", "1"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}};
  EXPECT_EQ(process_place(srun, false).launcher, Launcher::slurm);
  EXPECT_THAT(message_of([] {
                process_place({{"PMIX_RANK", "1"}}, false, "a:1");
              }),
              testing::HasSubstr("how many"));
}

TEST(HostPort, IsAnAddressOrAFile) {
  EXPECT_EQ(host_port("node1:29500")->host, "node1");
  EXPECT_EQ(host_port("node1:29500")->port, 29500);
  EXPECT_EQ(host_port("[fe80::1]:80")->host, "fe80::1");
  EXPECT_EQ(host_port("::1:80")->host, "::1");
  for (const char* file : {"meeting", "/a/b:80", "./x:1", "node1:", ":80", "node1:8o"})
    EXPECT_FALSE(host_port(file)) << file;
  EXPECT_THAT(message_of([] { host_port("node1:70000"); }), testing::HasSubstr("from 1 to 65535"));
}

}  // namespace
}  // namespace perceiver
